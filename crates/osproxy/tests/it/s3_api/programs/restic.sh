# restic: backups, a check that reads all data, a restore, and pruning.
export RESTIC_REPOSITORY=s3:$S3_ENDPOINT/restic/repository RESTIC_PASSWORD=password RESTIC_CACHE_DIR=$PWD/cache

mkdir -p local/deep
head -c 20000000 /dev/urandom >local/large.bin
for number in {1..40}; do
    seq "$number" 1000 >"local/deep/$number"
done
restic init
restic backup local
cp -r local first
head -c 5000000 /dev/urandom >local/other.bin
head -c 9000000 /dev/urandom >local/large.bin
rm local/deep/3
restic backup local
restic check --read-data
restic restore latest --target down
diff -r local down/local
restic forget --keep-last 1 --prune
restic check --read-data
[[ $(restic snapshots --json | grep -o '"short_id"' | wc -l) == 1 ]]
restic restore latest --target pruned
diff -r local pruned/local
