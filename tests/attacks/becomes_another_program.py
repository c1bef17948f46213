"Replaces itself by a program that is under no orders."
# ends with: timeout
import os, sys
os.execv(sys.executable, [sys.executable, '-c', 'while True: pass'])
