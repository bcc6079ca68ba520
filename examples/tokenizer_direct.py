"""Uses the tokenizer service directly: python examples/tokenizer_direct.py [HOST:PORT]"""

import os
import sys

import grpc

from mesh.pb import tokenizer_pb2 as pb
from mesh.pb.tokenizer_pb2_grpc import TokenizerStub

TEXT = "Hello, mesh! 🦊"
LIMIT_S = 5.0


def main() -> None:
    default = os.environ.get("INFERMESH_TOKENIZER_URL", "127.0.0.1:50051")
    address = sys.argv[1] if len(sys.argv) > 1 else default
    with grpc.insecure_channel(address) as channel:
        tokenizer = TokenizerStub(channel)
        about = tokenizer.Describe(pb.DescribeTokenizerRequest(), timeout=LIMIT_S)
        print(f"model {about.model.id}, {about.model.vocab_size} tokens")

        encoded = tokenizer.Encode(pb.EncodeRequest(texts=[TEXT]), timeout=LIMIT_S)
        print("encode:", list(encoded.sequences[0].ids))
        counted = tokenizer.Count(pb.CountRequest(text=TEXT), timeout=LIMIT_S)
        print("count:", counted.tokens)
        decoded = tokenizer.Decode(pb.DecodeRequest(sequences=encoded.sequences), timeout=LIMIT_S)
        print("decode:", decoded.texts[0])

        if about.has_chat_template:
            messages = [pb.ChatMessage(role="user", content="Who are you?")]
            request = pb.EncodeChatRequest(messages=messages, add_generation_prompt=True)
            chat = tokenizer.EncodeChat(request, timeout=LIMIT_S)
            print(f"chat: {chat.text!r} is {len(chat.prompt.ids)} tokens")


if __name__ == "__main__":
    main()
