package real

// ErrPortTaken is seen by tests only: a caller of a start never sees it, for the start is tried again with another port.
var ErrPortTaken = errPortTaken
