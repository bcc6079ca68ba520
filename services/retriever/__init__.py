"""The retriever: documents in through a work queue, passages out by meaning."""
