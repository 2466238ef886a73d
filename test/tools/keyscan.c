/*
 * keyscan.c
 *	  Finds key texts in files of any kind: keyscan PATH...
 *
 * Folders are searched with all below them.  For each key text that is found, a
 * line tells its body, which needs no list of keys to look for: the checksum
 * shows that it is one.  One in 4 billion texts of that shape is none.
 */
#include "c.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pure/keytext.h"

#define OPEN_FOLDERS 16

static void
scanText(const char *path, const char *text, size_t len)
{
	size_t from = 0;
	size_t body;
	size_t body_len;

	while (KeyTextFind(text, len, from, &body, &body_len))
	{
		if (body_len == KEYTEXT_BODY_LEN)
			printf("%.*s %s\n", (int) body_len, text + body, path);
		from = body + body_len;
	}
}

/*
 * Scan a file; nftw calls it.  Not 0, which ends the walk: it cannot be read.
 */
static int
scanFile(const char *path, const struct stat *status, int type, struct FTW *place)
{
	int file;
	char *text;

	if (type == FTW_DNR || type == FTW_NS)
		return -1;
	if (!S_ISREG(status->st_mode) || status->st_size == 0)
		return 0;
	file = open(path, O_RDONLY);
	text = file < 0 ? MAP_FAILED : mmap(NULL, status->st_size, PROT_READ, MAP_PRIVATE, file, 0);
	if (file >= 0)
		close(file);
	if (text == MAP_FAILED)
		return -1;
	scanText(path, text, status->st_size);
	munmap(text, status->st_size);
	return 0;
}

int
main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
	{
		if (nftw(argv[i], scanFile, OPEN_FOLDERS, FTW_PHYS) != 0)
		{
			perror(argv[i]);
			return 1;
		}
	}
	return 0;
}
