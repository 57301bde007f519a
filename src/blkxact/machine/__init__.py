"""What a guest's machine would hold: devices, drives, user-created objects, the qtest socket."""
