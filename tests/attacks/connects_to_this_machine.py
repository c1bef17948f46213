"Connects to a listener of this machine."
# ends with: ConnectionRefusedError
import socket
socket.create_connection(('127.0.0.1', PORT), 1)
