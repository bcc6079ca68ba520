"""Runs the tokenizer: `python -m services.tokenizer`."""

import asyncio
import os
from functools import partial

from mesh import rpc
from mesh.lifecycle import Lifecycle, run
from mesh.pb.tokenizer_pb2 import DESCRIPTOR
from mesh.pb.tokenizer_pb2_grpc import add_TokenizerServicer_to_server
from services import NAMES
from services.tokenizer.chat_encoder import ChatEncoder
from services.tokenizer.codec import Codec
from services.tokenizer.config import TokenizerSettings
from services.tokenizer.gguf.checkpoint import read_checkpoint
from services.tokenizer.servicer import TokenizerServicer
from services.tokenizer.workers import Workers


async def start(settings: TokenizerSettings, lifecycle: Lifecycle) -> None:
    """Load the checkpoint's tokenizer and serve it."""
    # the library would start a thread per core beside our bounded pool
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    checkpoint = await asyncio.to_thread(read_checkpoint, settings.model, settings.model_id)
    codec = await asyncio.to_thread(Codec, checkpoint)
    chat = await asyncio.to_thread(ChatEncoder, checkpoint)
    workers = Workers(settings.threads, settings.max_waiting)
    lifecycle.stack.push_async_callback(workers.close)
    servicer = TokenizerServicer(checkpoint, codec, chat, workers, settings.max_text_bytes)
    lifecycle.on_drain(servicer.drain)
    await rpc.serve(
        lifecycle,
        f"{settings.bind}:{settings.port}",
        [partial(add_TokenizerServicer_to_server, servicer)],
        [DESCRIPTOR.services_by_name["Tokenizer"].full_name],
    )


if __name__ == "__main__":
    run(TokenizerSettings, start, NAMES)
