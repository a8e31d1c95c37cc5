"""Campaign and lab files: what they may say, and where an error stands in them."""
