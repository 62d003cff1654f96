"""Stage student: self-training rounds on label-free cues; the student is what ships."""
