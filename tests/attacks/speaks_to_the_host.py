"Opens a line from a virtual machine to its host, which no network namespace holds."
# ends with: PermissionError
import socket
socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
