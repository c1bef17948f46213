"Reads the system's accounts."
# ends with: FileNotFoundError
print(open('/etc/passwd').read())
