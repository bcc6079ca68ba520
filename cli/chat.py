"""`infermesh chat`: a conversation in the terminal; answers stream."""

import argparse
import contextlib
import sys
from collections.abc import Generator

from cli.client import ApiError, Gateway, Json

PROMPT = "you> "
HELP = "/reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer"
TOO_LONG = "context_length_exceeded"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `infermesh chat`."""
    parser.add_argument("--collection", metavar="NAME", help="answer from these documents")
    parser.add_argument("--model", metavar="ID", help="default: the first that is served")
    parser.add_argument("--system", metavar="TEXT", help="the system message")


def run(arguments: argparse.Namespace) -> int:
    """Chat until the person leaves; 1 where the gateway cannot be used at all."""
    gateway = Gateway.from_environment()
    try:
        model = arguments.model or _first_model(gateway)
    except ApiError as error:
        print(f"infermesh chat: {error}", file=sys.stderr)
        return 1
    conversation = Conversation(gateway, model, arguments.system, arguments.collection)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # line editing and history in input()
    print(f"{model} at {gateway.url}. {HELP}.")
    while (text := _ask()) not in (None, "/quit"):
        if text == "/reset":
            conversation.reset()
        elif text:
            _answer(conversation, text)
    return 0


def _first_model(gateway: Gateway) -> str:
    listed = gateway.call("GET", "/v1/models").get("data")
    first = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(first, dict) or not isinstance(first.get("id"), str):
        raise ApiError(200, "the gateway names no model")
    return str(first["id"])


class Conversation:
    """What was said, and what the next request asks."""

    def __init__(
        self, gateway: Gateway, model: str, system: str | None, collection: str | None
    ) -> None:
        self.sources: list[str] = []
        self._gateway = gateway
        self._model = model
        self._collection = collection
        self._system = [{"role": "system", "content": system}] if system else []
        self._turns: list[tuple[Json, Json]] = []

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self._turns.clear()

    def say(self, text: str) -> Generator[str, None, None]:
        """Yield the pieces of the answer; `sources` then holds what it cites, by number.

        Only a whole answer becomes part of the conversation. The oldest turns are forgotten when
        it no longer fits into the model's context. Raises ApiError.
        """
        question = {"role": "user", "content": text}
        pieces: list[str] = []
        while True:
            try:
                for piece in self._stream(question):
                    pieces.append(piece)
                    yield piece
                break
            except ApiError as error:
                if error.code != TOO_LONG or pieces or not self._turns:
                    raise
                del self._turns[0]
        self._turns.append((question, {"role": "assistant", "content": "".join(pieces)}))

    def _stream(self, question: Json) -> Generator[str, None, None]:
        self.sources = []
        history = [message for turn in self._turns for message in turn]
        body: Json = {
            "model": self._model,
            "stream": True,
            "messages": [*self._system, *history, question],
        }
        if self._collection:
            body["retrieval"] = {"collection": self._collection}
        with contextlib.closing(self._gateway.stream("/v1/chat/completions", body)) as events:
            for event in events:
                if sources := _sources(event):
                    self.sources = sources
                yield from _pieces(event)


def _sources(event: Json) -> list[str]:
    """Return what an event cites; nothing where it is not of that form."""
    citations = event.get("citations")
    entries = citations if isinstance(citations, list) else []
    return [str(entry.get("source")) for entry in entries if isinstance(entry, dict)]


def _pieces(event: Json) -> Generator[str, None, None]:
    """Yield the text of an event; nothing where it is not of that form."""
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        delta = choice.get("delta") if isinstance(choice, dict) else None
        piece = delta.get("content") if isinstance(delta, dict) else None
        if isinstance(piece, str) and piece:
            yield piece


def _ask() -> str | None:
    try:
        return input(PROMPT).strip()
    except EOFError:
        print()
        return None


def _answer(conversation: Conversation, text: str) -> None:
    """Show an answer as it comes; Ctrl-C leaves it unfinished."""
    try:
        with contextlib.closing(conversation.say(text)) as pieces:
            for piece in pieces:
                print(piece, end="", flush=True)
        print()
    except KeyboardInterrupt:
        print("\n(stopped)")
    except ApiError as error:
        print(f"\ninfermesh chat: {error}", file=sys.stderr)
    else:
        if conversation.sources:
            numbered = (f"[{n}] {s}" for n, s in enumerate(conversation.sources, start=1))
            print("sources: " + "  ".join(numbered))
