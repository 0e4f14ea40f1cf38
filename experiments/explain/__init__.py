"""Why memory ran out, or was wasted: what it was, who pins it, and what would have freed it."""
