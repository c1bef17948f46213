"Gives the machine the name that it has."
# ends with: PermissionError
import socket
socket.sethostname(socket.gethostname())
