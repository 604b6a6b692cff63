"""Settings that come in kinds: one file a kind of choice, one class a choice."""
