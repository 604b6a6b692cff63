"""From whatever a person has to what training can trust: what `prepare` does with each file, and with all of them."""
