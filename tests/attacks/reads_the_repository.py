"Reads a file of the repository."
# ends with: FileNotFoundError
print(open(ROOT + '/settings.ini').read())
