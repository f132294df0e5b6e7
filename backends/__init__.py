"""Where agents run: each backend starts, finds again and stops agents, and knows nothing of what they do."""
