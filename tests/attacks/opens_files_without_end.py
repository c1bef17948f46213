"Opens files (ten thousand at most)."
# ends with: Too many open files
files = [open('/dev/null') for _ in range(10**4)]
