"""Linear heads on frozen features: ridge, LDA and logistic regression, whole paths at once, and a search over them."""
