"Connects to a Unix socket that has no file."
# ends with: ConnectionRefusedError
import socket
socket.socket(socket.AF_UNIX).connect(f'\0sftrepro-{PID}')
