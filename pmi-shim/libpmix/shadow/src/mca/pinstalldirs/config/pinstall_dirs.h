/* Where an installed libpmix would find its files: nowhere, because this one has
 * none. A path below a character device cannot exist in any image. */
#define NOWHERE "/dev/null/pmix"
#define PMIX_INSTALL_PREFIX NOWHERE
#define PMIX_EXEC_PREFIX NOWHERE
#define PMIX_BINDIR NOWHERE
#define PMIX_SBINDIR NOWHERE
#define PMIX_LIBEXECDIR NOWHERE
#define PMIX_DATAROOTDIR NOWHERE
#define PMIX_DATADIR NOWHERE
#define PMIX_SYSCONFDIR NOWHERE
#define PMIX_SHAREDSTATEDIR NOWHERE
#define PMIX_LOCALSTATEDIR NOWHERE
#define PMIX_LIBDIR NOWHERE
#define PMIX_INCLUDEDIR NOWHERE
#define PMIX_INFODIR NOWHERE
#define PMIX_MANDIR NOWHERE
#define PMIX_PKGDATADIR NOWHERE
#define PMIX_PKGLIBDIR NOWHERE
#define PMIX_PKGINCLUDEDIR NOWHERE
