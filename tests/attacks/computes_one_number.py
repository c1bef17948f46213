"Computes one number, in one step that Python does not interrupt."
# ends with: timeout
9 ** 9 ** 9 % 10
