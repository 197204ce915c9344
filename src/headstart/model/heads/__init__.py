"""Linear heads on frozen features: ridge, LDA and logistic regression, whole paths at a time, and the search among them."""
