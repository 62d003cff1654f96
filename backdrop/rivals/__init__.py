"""Other people's methods, written anew from their public descriptions, run on the same frames as ours."""
