"Allows itself more memory."
# ends with: error ValueError
import resource
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
bytearray(2**30)
