"""The front: what a person types and reads. It has no abilities of its own; each verb is a call of the library."""
