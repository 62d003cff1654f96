"""Bundle adjustment over a video: boxes and skeletons from what single frames say, by reprojection, time and priors."""
