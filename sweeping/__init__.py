"""Many runs from one plan: what to run, what is done, who runs it, and the search over
hyper-parameters.
"""
