"""The five deployables; every folder here runs as `python -m services.NAME`."""

# written out: an image holds the folder of one service alone
NAMES = ("cache", "gateway", "generator", "retriever", "tokenizer")
