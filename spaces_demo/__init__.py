"""The Space: a page on which a stranger tries a UniMP model on its catalogue, and the same as an API."""
