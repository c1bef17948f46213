"Listens to all that passes on the wire."
# ends with: PermissionError
import socket
socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
