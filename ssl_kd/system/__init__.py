"""Files and processes: what is read, written and shown with care."""
