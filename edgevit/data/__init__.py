"""Images in: preprocessing, image folders, the digits."""
