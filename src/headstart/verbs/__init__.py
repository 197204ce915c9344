"""One module per verb: `headstart VERB` and `headstart.VERB` are the function of that name in it.

They put the packages below together and hold no method of their own (`pipeline` does). `train` is the whole story;
open it first.
"""
