"""`backdrop review`: which frames to label, as a page and as tasks for labeling tools."""
