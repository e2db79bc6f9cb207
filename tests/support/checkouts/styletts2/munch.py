def munchify(x):
    return x
