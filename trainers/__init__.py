"""From episodes to better policies. Nothing here yet: this release holds the environment."""
