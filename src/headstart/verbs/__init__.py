"""One module per verb: `headstart VERB` and `headstart.VERB` are the function of that name in it.

They connect the other packages and implement no methods themselves (`pipeline` does). Start with `train`: it covers the
whole process.
"""
