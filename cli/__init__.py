"""The `infermesh` command: start a stack on one machine, ingest documents, chat."""
