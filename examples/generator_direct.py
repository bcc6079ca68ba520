"""Talk to one generator replica over gRPC: token ids in, token ids out.

python examples/generator_direct.py [ADDRESS]     default: INFERMESH_GENERATOR_URL
"""

import asyncio
import os
import sys

import grpc

from mesh.pb import common_pb2, generator_pb2, generator_pb2_grpc


async def main(address: str) -> None:
    """Describe the replica, then stream sixteen tokens."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = generator_pb2_grpc.GeneratorStub(channel)
        about = await stub.Describe(generator_pb2.DescribeGeneratorRequest(), timeout=5)
        print(f"{about.model.id}: context {about.model.context_length} tokens")
        request = generator_pb2.GenerateRequest(
            prompt_token_ids=[40, 50, 60],
            sampling=common_pb2.SamplingParams(max_tokens=16, top_p=1.0, ignore_eos=True),
        )
        call = stub.Generate(request, timeout=30)
        try:
            async for response in call:
                print(*response.token_ids, end=" ", flush=True)
                if response.finish_reason:
                    print(f"\n{response.usage.completion_tokens} tokens")
        finally:
            call.cancel()  # leaving the loop alone would not stop the replica


if __name__ == "__main__":
    default = os.environ.get("INFERMESH_GENERATOR_URL", "127.0.0.1:50054")
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else default))
