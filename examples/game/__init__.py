"""The mobile game of Beam's own documentation, on events that are made here instead of read from a cloud."""
