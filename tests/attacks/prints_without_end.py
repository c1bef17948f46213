"Prints for ever."
# ends with: limit
while True:
    print('spam' * 1000)
