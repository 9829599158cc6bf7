cmake_minimum_required(VERSION 3.25)
# Writes OUTPUT, a header that says which commit SOURCE_DIR is at, if it is another than before; "+" marks changed files.
execute_process(COMMAND git -C ${SOURCE_DIR} describe --always --abbrev=12 --dirty=+ --exclude=*
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT commit)
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#define OSSATURE_COMMIT \"@commit@\"\n" @ONLY)
