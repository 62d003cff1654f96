"""Training frames on a budget: bursts of consecutive frames, drawn from all videos."""
