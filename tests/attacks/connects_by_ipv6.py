"Connects to this machine by the newer protocol."
# ends with: ConnectionRefusedError
import socket
socket.create_connection(('::1', PORT), 1)
