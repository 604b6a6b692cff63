"""From lines of prompts to pictures on disk."""
