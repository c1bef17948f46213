"Connects to a public address."
# ends with: Network is unreachable
import socket
socket.create_connection(('1.1.1.1', 53), 1)
