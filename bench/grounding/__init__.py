"""Grounding texts compared: free questions right, refusals right, citations right."""
