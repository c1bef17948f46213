"Loops for ever."
# ends with: timeout
while True:
    pass
