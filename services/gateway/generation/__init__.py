"""The generator stage behind one port: queue, routing, bus and text."""
