"""Recommenders, rating predictors and explainers that are no UniMP: what it has to be better than."""
