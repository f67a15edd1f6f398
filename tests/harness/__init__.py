"""What the whole-system tests and the benches share: starting a hub, talking to it, counting steps."""
