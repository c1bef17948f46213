"Starts a process as a program with parallel parts would."
# ends with: PermissionError
import multiprocessing
process = multiprocessing.get_context('fork').Process(target=print)
process.start()
