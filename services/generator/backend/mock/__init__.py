"""A model without weights: what the engine does around a model, at speeds that are chosen."""
